import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** Files of arguments, one a line, named by {@code @file}; a line may name another one. */
final class ArgumentFiles {
  /** More than anybody nests, and an end for a file that names itself. */
  private static final int DEPTH_MAX = 16;

  private ArgumentFiles() {}

  static List<String> expand(List<String> arguments) throws IOException {
    List<String> expanded = new ArrayList<>();
    for (String argument : arguments) {
      expand(argument, 0, expanded);
    }
    return expanded;
  }

  private static void expand(String argument, int depth, List<String> expanded) throws IOException {
    if (!argument.startsWith("@") || argument.startsWith("@@")) {
      expanded.add(argument);
      return;
    }
    if (depth == DEPTH_MAX) {
      throw new IOException("files of arguments are nested deeper than " + DEPTH_MAX + " at " + argument);
    }
    for (String line : Files.readAllLines(Path.of(argument.substring(1)), StandardCharsets.UTF_8)) {
      expand(line, depth + 1, expanded);
    }
  }
}
