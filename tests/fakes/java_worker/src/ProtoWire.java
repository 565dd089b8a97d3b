import java.io.ByteArrayOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** Messages of protobuf, each after its length as a varint. */
final class ProtoWire implements Wire {
  private static final int VARINT = 0;
  private static final int FIXED64 = 1;
  private static final int BYTES = 2;
  private static final int FIXED32 = 5;
  private static final int REQUEST_BYTES_MAX = 256 << 20;

  private final InputStream in;
  private final OutputStream out;

  ProtoWire(InputStream in, OutputStream out) {
    this.in = in;
    this.out = out;
  }

  @Override
  public Work read() throws IOException {
    int first = in.read();
    if (first < 0) {
      return null;
    }
    long length = first & 0x7f;
    for (int shift = 7, last = first; (last & 0x80) != 0; shift += 7) {
      last = in.read();
      if (last < 0 || shift > 28) {
        throw new EOFException("no length before the end");
      }
      length |= (long) (last & 0x7f) << shift;
    }
    if (length > REQUEST_BYTES_MAX) {
      throw new IOException("a request of " + length + " bytes, more than " + REQUEST_BYTES_MAX);
    }
    byte[] message = in.readNBytes((int) length);
    if (message.length < length) {
      throw new EOFException("a request ends after " + message.length + " of " + length + " bytes");
    }
    return parse(ByteBuffer.wrap(message));
  }

  private static Work parse(ByteBuffer message) throws IOException {
    List<String> arguments = new ArrayList<>();
    int inputs = 0;
    int id = 0;
    boolean cancel = false;
    int verbosity = 0;
    String directory = "";
    while (message.hasRemaining()) {
      int tag = (int) varint(message);
      switch (tag) {
        case 1 << 3 | BYTES -> arguments.add(text(message));
        case 2 << 3 | BYTES -> {
          skip(BYTES, message);
          inputs++;
        }
        case 3 << 3 | VARINT -> id = (int) varint(message);
        case 4 << 3 | VARINT -> cancel = varint(message) != 0;
        case 5 << 3 | VARINT -> verbosity = (int) varint(message);
        case 6 << 3 | BYTES -> directory = text(message);
        default -> skip(tag & 7, message);
      }
    }
    return new Work(arguments, inputs, id, cancel, verbosity, directory);
  }

  private static long varint(ByteBuffer message) throws IOException {
    long value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (!message.hasRemaining()) {
        break;
      }
      byte next = message.get();
      value |= (long) (next & 0x7f) << shift;
      if (next >= 0) {
        return value;
      }
    }
    throw new IOException("a number without an end in a request");
  }

  private static int length(ByteBuffer message) throws IOException {
    long length = varint(message);
    if (length < 0 || length > message.remaining()) {
      throw new IOException("a field of " + length + " bytes where " + message.remaining() + " are left");
    }
    return (int) length;
  }

  private static String text(ByteBuffer message) throws IOException {
    byte[] bytes = new byte[length(message)];
    message.get(bytes);
    return new String(bytes, StandardCharsets.UTF_8);
  }

  private static void skip(int type, ByteBuffer message) throws IOException {
    int length =
        switch (type) {
          case VARINT -> {
            varint(message);
            yield 0;
          }
          case FIXED64 -> 8;
          case BYTES -> length(message);
          case FIXED32 -> 4;
          default -> throw new IOException("a field of the unknown type " + type + " in a request");
        };
    if (length > message.remaining()) {
      throw new IOException("a field goes on after the end of a request");
    }
    message.position(message.position() + length);
  }

  @Override
  public void write(Reply reply) throws IOException {
    ByteArrayOutputStream message = new ByteArrayOutputStream();
    number(1, reply.exitCode(), message);
    byte[] output = reply.output().getBytes(StandardCharsets.UTF_8);
    if (output.length > 0) {
      varint(2 << 3 | BYTES, message);
      varint(output.length, message);
      message.write(output);
    }
    number(3, reply.id(), message);
    number(4, reply.wasCancelled() ? 1 : 0, message);
    ByteArrayOutputStream framed = new ByteArrayOutputStream(message.size() + 5);
    varint(message.size(), framed);
    message.writeTo(framed);
    synchronized (out) {
      framed.writeTo(out);
      out.flush();
    }
  }

  private static void number(int field, int value, ByteArrayOutputStream message) {
    if (value != 0) {
      varint(field << 3 | VARINT, message);
      varint(value, message);
    }
  }

  private static void varint(long value, ByteArrayOutputStream message) {
    while ((value & ~0x7fL) != 0) {
      message.write((int) (value & 0x7f | 0x80));
      value >>>= 7;
    }
    message.write((int) value);
  }
}
