import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Whether a request was cancelled; set once, by the reader, and asked for by the request's own thread. */
final class Cancellation {
  /** Ends the compiler from within a listener of it. */
  static final class Cancelled extends RuntimeException {
    private static final long serialVersionUID = 1;

    Cancelled() {
      super("cancelled", null, false, false);
    }
  }

  private final CountDownLatch cancelled = new CountDownLatch(1);

  void cancel() {
    cancelled.countDown();
  }

  boolean isCancelled() {
    return cancelled.getCount() == 0;
  }

  void check() {
    if (isCancelled()) {
      throw new Cancelled();
    }
  }

  /** Waits that long, or until it is cancelled. */
  void pause(long millis) {
    try {
      cancelled.await(millis, TimeUnit.MILLISECONDS);
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
    check();
  }
}
