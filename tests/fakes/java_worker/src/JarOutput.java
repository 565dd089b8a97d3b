import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.LocalDateTime;
import java.util.Map;
import java.util.TreeMap;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.zip.CRC32;
import javax.tools.FileObject;
import javax.tools.ForwardingJavaFileManager;
import javax.tools.JavaFileManager;
import javax.tools.JavaFileObject;
import javax.tools.SimpleJavaFileObject;

/** Keeps the classes in memory, and writes them to one archive that is the same for the same classes. */
final class JarOutput extends ForwardingJavaFileManager<JavaFileManager> {
  /** The first moment that the format knows. */
  private static final LocalDateTime EPOCH = LocalDateTime.of(1980, 1, 1, 0, 0);

  private final Map<String, ByteArrayOutputStream> classes = new TreeMap<>();

  JarOutput(JavaFileManager sources) {
    super(sources);
  }

  @Override
  public JavaFileObject getJavaFileForOutput(
      Location location, String name, JavaFileObject.Kind kind, FileObject sibling) {
    String path = name.replace('.', '/') + kind.extension;
    return new SimpleJavaFileObject(URI.create("memory:///" + path), kind) {
      @Override
      public OutputStream openOutputStream() {
        ByteArrayOutputStream bytes = new ByteArrayOutputStream();
        classes.put(path, bytes);
        return bytes;
      }
    };
  }

  void write(Path path) throws IOException {
    if (path.getParent() != null) {
      Files.createDirectories(path.getParent());
    }
    try (JarOutputStream jar = new JarOutputStream(Files.newOutputStream(path))) {
      for (Map.Entry<String, ByteArrayOutputStream> entry : classes.entrySet()) {
        byte[] bytes = entry.getValue().toByteArray();
        CRC32 sum = new CRC32();
        sum.update(bytes);
        JarEntry stored = new JarEntry(entry.getKey());
        stored.setTimeLocal(EPOCH);
        stored.setMethod(JarEntry.STORED);
        stored.setSize(bytes.length);
        stored.setCrc(sum.getValue());
        jar.putNextEntry(stored);
        jar.write(bytes);
        jar.closeEntry();
      }
    }
  }
}
