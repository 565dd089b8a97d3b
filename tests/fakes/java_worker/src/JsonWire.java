import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Objects of JSON, one after the other. Replies have all fields and no line end, as those of other Java workers. */
final class JsonWire implements Wire {
  private final Json in;
  private final OutputStream out;

  JsonWire(InputStream in, OutputStream out) {
    this.in = new Json(new BufferedReader(new InputStreamReader(in, StandardCharsets.UTF_8)));
    this.out = out;
  }

  @Override
  public Work read() throws IOException {
    Object value = in.next();
    if (value == null) {
      return null;
    }
    if (!(value instanceof Map<?, ?> fields)) {
      throw new IOException("a request that is no object: " + value);
    }
    List<String> arguments = new ArrayList<>();
    if (fields.get("arguments") instanceof List<?> texts) {
      texts.forEach(text -> arguments.add((String) text));
    }
    int inputs = fields.get("inputs") instanceof List<?> files ? files.size() : 0;
    boolean cancel = Boolean.TRUE.equals(fields.get("cancel"));
    String directory = fields.get("sandboxDir") instanceof String text ? text : "";
    return new Work(arguments, inputs, number(fields, "requestId"), cancel, number(fields, "verbosity"), directory);
  }

  private static int number(Map<?, ?> fields, String name) {
    return fields.get(name) instanceof Double value ? value.intValue() : 0;
  }

  @Override
  public void write(Reply reply) throws IOException {
    StringBuilder text = new StringBuilder();
    text.append("{\"exitCode\":").append(reply.exitCode()).append(",\"output\":");
    Json.quote(reply.output(), text);
    text.append(",\"requestId\":").append(reply.id());
    text.append(",\"wasCancelled\":").append(reply.wasCancelled()).append('}');
    byte[] bytes = text.toString().getBytes(StandardCharsets.UTF_8);
    synchronized (out) {
      out.write(bytes);
      out.flush();
    }
  }
}
