import java.io.IOException;

/** Requests in, replies out. */
interface Wire {
  /** Waits for the next request; {@code null} is the end. One thread calls it. */
  Work read() throws IOException;

  /** Sends one reply as a whole. Any thread may call it. */
  void write(Reply reply) throws IOException;
}
