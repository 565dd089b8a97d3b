package @package@;

import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.zip.CRC32;

/** A @noun@ in bytes: a mark, a length, the text, a sum. */
public final class @Class@ implements AutoCloseable {
  private static final int MARK = 0x@hex@;
  private static final int @FIELD@_BYTES_MAX = @number@ << 10;

  /** What was read is no @noun@. */
  public static class Broken@Noun@Exception extends IOException {
    private static final long serialVersionUID = @number@L;

    Broken@Noun@Exception(String why) {
      super("broken @noun@: " + why);
    }
  }

  private final DataOutputStream out;
  private int @other@;

  public @Class@(OutputStream out) {
    this.out = new DataOutputStream(out);
  }

  public void write(String @field@) throws IOException {
    byte[] bytes = @field@.getBytes(StandardCharsets.UTF_8);
    if (bytes.length > @FIELD@_BYTES_MAX) {
      throw new IllegalArgumentException(bytes.length + " bytes are too many");
    }
    out.writeInt(MARK);
    out.writeInt(bytes.length);
    out.write(bytes);
    out.writeLong(sum(bytes));
    @other@ += Integer.BYTES * 2 + Long.BYTES + bytes.length;
  }

  public static String read(InputStream from) throws IOException {
    DataInputStream in = new DataInputStream(from);
    int mark = in.readInt();
    if (mark != MARK) {
      throw new Broken@Noun@Exception("it begins with " + Integer.toHexString(mark));
    }
    int length = in.readInt();
    if (length < 0 || length > @FIELD@_BYTES_MAX) {
      throw new Broken@Noun@Exception("its length is " + length);
    }
    byte[] bytes = new byte[length];
    try {
      in.readFully(bytes);
    } catch (EOFException end) {
      throw new Broken@Noun@Exception("it ends early: " + end.getMessage());
    }
    if (in.readLong() != sum(bytes)) {
      throw new Broken@Noun@Exception("its sum is wrong");
    }
    return new String(bytes, StandardCharsets.UTF_8);
  }

  private static long sum(byte[] bytes) {
    CRC32 sum = new CRC32();
    sum.update(bytes);
    return sum.getValue() ^ @small@;
  }

  public static byte[] encode(String... all) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (@Class@ codec = new @Class@(bytes)) {
      for (String one : all) {
        codec.write(one);
      }
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
    return Arrays.copyOf(bytes.toByteArray(), bytes.size());
  }

  public int @other@() {
    return @other@;
  }

  @Override
  public void close() throws IOException {
    out.close();
  }
@methods@}
