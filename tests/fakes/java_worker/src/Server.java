import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Serves requests: those with an id each in a thread of its own, those without one after the other in one thread.
 *
 * <p>The caller's thread reads all the time, because a cancel may come whenever. Each request is answered exactly once,
 * cancelled or not; a cancel for what is not running is ignored.
 */
final class Server {
  private final Wire wire;
  private final List<String> always;
  private final Map<Integer, Cancellation> running = new HashMap<>();
  /** The thread of the last request without an id: the next one waits for it. */
  private Thread last;

  Server(Wire wire, List<String> always) {
    this.wire = wire;
    this.always = always;
  }

  /** Until the end of the requests; gives the exit code of the process. */
  int serve() {
    try {
      for (Work work = wire.read(); work != null; work = wire.read()) {
        if (work.cancel()) {
          cancel(work.id());
        } else {
          start(work);
        }
      }
      return 0;
    } catch (IOException error) {
      System.err.println("java_worker: " + error.getMessage());
      return 1;
    }
  }

  private void cancel(int id) {
    synchronized (running) {
      Cancellation cancellation = running.get(id);
      if (cancellation != null) {
        cancellation.cancel();
      }
    }
  }

  private void start(Work work) throws IOException {
    Cancellation cancellation = new Cancellation();
    Thread before = null;
    synchronized (running) {
      if (work.id() == 0) {
        before = last;
      } else if (running.containsKey(work.id())) {
        throw new IOException("request " + work.id() + " is still running, and came again");
      }
    }
    join(before);
    synchronized (running) {
      running.put(work.id(), cancellation);
    }
    Thread thread = new Thread(() -> answer(work, cancellation), "request-" + work.id());
    thread.setDaemon(true);
    if (work.id() == 0) {
      last = thread;
    }
    thread.start();
  }

  private void answer(Work work, Cancellation cancellation) {
    Reply reply = reply(work, cancellation);
    synchronized (running) {
      running.remove(work.id());
    }
    try {
      wire.write(reply);
    } catch (IOException error) {
      System.err.println("java_worker: can't reply to request " + work.id() + ": " + error.getMessage());
      System.exit(1);
    }
  }

  private Reply reply(Work work, Cancellation cancellation) {
    StringBuilder said = new StringBuilder();
    try {
      List<String> arguments = new ArrayList<>(always);
      arguments.addAll(work.arguments());
      if (work.verbosity() > 0) {
        said.append("request ").append(work.id()).append(" with ").append(work.inputs()).append(" inputs\n");
      }
      int code = Compilation.run(arguments, work.directory(), cancellation, said);
      return new Reply(code, said.toString(), work.id(), false);
    } catch (Cancellation.Cancelled cancelled) {
      return new Reply(0, "", work.id(), true);
    } catch (IOException | RuntimeException error) {
      StringWriter trace = new StringWriter();
      error.printStackTrace(new PrintWriter(trace, true));
      return new Reply(1, said + trace.toString(), work.id(), false);
    } catch (Error error) {
      // Out of memory, most likely: what else runs here can't be trusted either.
      error.printStackTrace();
      Runtime.getRuntime().halt(1);
      throw error;
    }
  }

  private static void join(Thread thread) throws IOException {
    try {
      if (thread != null) {
        thread.join();
      }
    } catch (InterruptedException interrupted) {
      throw new IOException("interrupted", interrupted);
    }
  }
}
