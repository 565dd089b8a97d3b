import java.io.BufferedInputStream;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.util.ArrayList;
import java.util.List;

/**
 * A Java compiler that Bazel's worker protocol speaks with: see README.md beside this directory.
 *
 * <p>With {@code --persistent_worker} it serves requests until its standard input ends; without, it compiles once what its
 * arguments say. Both read the same arguments.
 */
public final class Main {
  private Main() {}

  public static void main(String[] arguments) throws Exception {
    boolean persistent = false;
    boolean json = false;
    List<String> rest = new ArrayList<>();
    for (String argument : arguments) {
      switch (argument) {
        case "--persistent_worker" -> persistent = true;
        case "--protocol=json" -> json = true;
        case "--protocol=proto" -> json = false;
        default -> rest.add(argument);
      }
    }
    if (!persistent) {
      StringBuilder said = new StringBuilder();
      int code = Compilation.run(ArgumentFiles.expand(rest), "", new Cancellation(), said);
      System.err.print(said);
      System.exit(code);
    }
    // Standard output belongs to the protocol: what else prints there goes to the log.
    FileOutputStream out = new FileOutputStream(FileDescriptor.out);
    System.setOut(System.err);
    BufferedInputStream in = new BufferedInputStream(new FileInputStream(FileDescriptor.in), 1 << 16);
    Wire wire = json ? new JsonWire(in, out) : new ProtoWire(in, out);
    System.exit(new Server(wire, rest).serve());
  }
}
