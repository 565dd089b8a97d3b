import com.sun.source.util.JavacTask;
import com.sun.source.util.TaskEvent;
import com.sun.source.util.TaskListener;
import java.io.File;
import java.io.IOException;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import javax.tools.JavaCompiler;
import javax.tools.StandardJavaFileManager;
import javax.tools.StandardLocation;
import javax.tools.ToolProvider;

/** One run of the compiler: options of javac, and some of our own. */
final class Compilation {
  /** One for the life of the process: what it has loaded and the JIT has compiled is what makes a worker fast. */
  private static final JavaCompiler COMPILER = ToolProvider.getSystemJavaCompiler();

  private final String prefix;
  private final List<String> options = new ArrayList<>();
  private final List<Path> sources = new ArrayList<>();
  private final List<Path> classpath = new ArrayList<>();
  private Path directory;
  private Path jar;
  private long pauseMillis;

  private Compilation(String prefix) {
    this.prefix = prefix;
  }

  /**
   * Compiles, and gives the exit code; what javac said is appended to {@code said}.
   *
   * @throws Cancellation.Cancelled if it was cancelled before all was written
   */
  static int run(List<String> arguments, String prefix, Cancellation cancellation, StringBuilder said)
      throws IOException {
    Compilation compilation = new Compilation(prefix);
    String complaint = compilation.parse(arguments);
    if (complaint != null) {
      said.append("java_worker: ").append(complaint).append('\n');
      return 2;
    }
    cancellation.check();
    if (compilation.pauseMillis > 0) {
      cancellation.pause(compilation.pauseMillis);
    }
    return compilation.compile(cancellation, said) ? 0 : 1;
  }

  /** Gives what is wrong with them, or {@code null}. */
  private String parse(List<String> arguments) {
    for (int at = 0; at < arguments.size(); at++) {
      String argument = arguments.get(at);
      switch (argument) {
        case "-d", "--jar", "-cp", "-classpath", "--class-path", "--release", "-source", "-target", "-encoding" -> {
          at++;
          if (at == arguments.size()) {
            return argument + " wants a value";
          }
          valued(argument, arguments.get(at));
        }
        default -> {
          if (argument.startsWith("--pause_ms=")) {
            pauseMillis = Long.parseLong(argument.substring("--pause_ms=".length()));
          } else if (argument.startsWith("-")) {
            options.add(argument);
          } else {
            sources.add(placed(argument));
          }
        }
      }
    }
    if (sources.isEmpty()) {
      return "no sources";
    }
    return (directory == null) == (jar == null) ? "one of -d DIRECTORY and --jar FILE is needed" : null;
  }

  private void valued(String name, String value) {
    switch (name) {
      case "-d" -> directory = placed(value);
      case "--jar" -> jar = placed(value);
      case "-cp", "-classpath", "--class-path" -> {
        for (String entry : value.split(File.pathSeparator)) {
          classpath.add(placed(entry));
        }
      }
      default -> options.addAll(List.of(name, value));
    }
  }

  /** Where a path of the request is: below the request's own directory, if it has one. */
  private Path placed(String path) {
    return prefix.isEmpty() ? Path.of(path) : Path.of(prefix).resolve(path);
  }

  private boolean compile(Cancellation cancellation, StringBuilder said) throws IOException {
    StringWriter printed = new StringWriter();
    try (StandardJavaFileManager files = COMPILER.getStandardFileManager(null, null, StandardCharsets.UTF_8)) {
      files.setLocationFromPaths(StandardLocation.CLASS_PATH, classpath);
      // Else it is looked for in the class path, which is the worker's own where none is given.
      files.setLocationFromPaths(StandardLocation.ANNOTATION_PROCESSOR_PATH, List.of());
      JarOutput classes = new JarOutput(files);
      if (directory != null) {
        Files.createDirectories(directory);
        files.setLocationFromPaths(StandardLocation.CLASS_OUTPUT, List.of(directory));
      }
      JavaCompiler.CompilationTask task =
          COMPILER.getTask(
              printed,
              jar == null ? files : classes,
              null,
              options,
              null,
              files.getJavaFileObjectsFromPaths(sources));
      ((JavacTask) task).addTaskListener(new CancelListener(cancellation));
      boolean good = call(task, cancellation);
      if (good && jar != null) {
        cancellation.check();
        classes.write(jar);
      }
      return good;
    } finally {
      said.append(printed);
    }
  }

  /** The compiler wraps what a listener throws. */
  private static boolean call(JavaCompiler.CompilationTask task, Cancellation cancellation) {
    try {
      return task.call();
    } catch (RuntimeException error) {
      cancellation.check();
      throw error;
    }
  }

  private record CancelListener(Cancellation cancellation) implements TaskListener {
    @Override
    public void started(TaskEvent event) {
      cancellation.check();
    }
  }
}
