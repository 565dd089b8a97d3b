import java.io.IOException;
import java.io.Reader;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A stream of JSON values: maps, lists, strings, doubles, booleans. It never reads past the end of an object. */
final class Json {
  private static final int DEPTH_MAX = 64;
  private static final int NOTHING = -2;

  private final Reader in;
  private int peeked = NOTHING;

  Json(Reader in) {
    this.in = in;
  }

  /** The next value; {@code null} at the end. */
  Object next() throws IOException {
    return blank() < 0 ? null : value(0);
  }

  private int peek() throws IOException {
    if (peeked == NOTHING) {
      peeked = in.read();
    }
    return peeked;
  }

  private int take() throws IOException {
    int taken = peek();
    peeked = NOTHING;
    return taken;
  }

  private int blank() throws IOException {
    while (peek() == ' ' || peek() == '\n' || peek() == '\r' || peek() == '\t') {
      take();
    }
    return peek();
  }

  private void expect(char wanted) throws IOException {
    int found = take();
    if (found != wanted) {
      throw new IOException("'" + wanted + "' is expected in a request, not " + shown(found));
    }
  }

  private static String shown(int found) {
    return found < 0 ? "its end" : "'" + (char) found + "'";
  }

  private Object value(int depth) throws IOException {
    if (depth > DEPTH_MAX) {
      throw new IOException("a request nests deeper than " + DEPTH_MAX);
    }
    return switch (blank()) {
      case '{' -> object(depth);
      case '[' -> list(depth);
      case '"' -> string();
      default -> word();
    };
  }

  private Map<String, Object> object(int depth) throws IOException {
    Map<String, Object> fields = new LinkedHashMap<>();
    expect('{');
    while (blank() != '}') {
      if (!fields.isEmpty()) {
        expect(',');
        blank();
      }
      String name = string();
      blank();
      expect(':');
      if (fields.put(name, value(depth + 1)) != null) {
        throw new IOException("the field " + name + " stands twice in a request");
      }
    }
    expect('}');
    return fields;
  }

  private List<Object> list(int depth) throws IOException {
    List<Object> items = new ArrayList<>();
    expect('[');
    while (blank() != ']') {
      if (!items.isEmpty()) {
        expect(',');
      }
      items.add(value(depth + 1));
    }
    expect(']');
    return items;
  }

  private String string() throws IOException {
    StringBuilder text = new StringBuilder();
    expect('"');
    for (int next = take(); next != '"'; next = take()) {
      if (next < 0) {
        throw new IOException("a request ends inside a string");
      }
      text.append(next == '\\' ? escaped() : (char) next);
    }
    return text.toString();
  }

  private char escaped() throws IOException {
    int next = take();
    return switch (next) {
      case '"', '\\', '/' -> (char) next;
      case 'b' -> '\b';
      case 'f' -> '\f';
      case 'n' -> '\n';
      case 'r' -> '\r';
      case 't' -> '\t';
      case 'u' -> {
        int code = 0;
        for (int digit = 0; digit < 4; digit++) {
          int value = Character.digit(take(), 16);
          if (value < 0) {
            throw new IOException("no four digits after \\u in a request");
          }
          code = code << 4 | value;
        }
        yield (char) code;
      }
      default -> throw new IOException("an unknown escape in a request: " + shown(next));
    };
  }

  private Object word() throws IOException {
    StringBuilder text = new StringBuilder();
    while (peek() > ' ' && ",:]}".indexOf(peek()) < 0) {
      text.append((char) take());
    }
    String word = text.toString();
    switch (word) {
      case "true":
        return true;
      case "false":
        return false;
      case "null":
        // Nothing distinguishes it from a field that is not there.
        return "";
      default:
        try {
          return Double.valueOf(word);
        } catch (NumberFormatException error) {
          throw new IOException("neither a number nor a word of JSON in a request: '" + word + "'", error);
        }
    }
  }

  static void quote(String value, StringBuilder text) {
    text.append('"');
    for (int at = 0; at < value.length(); at++) {
      char next = value.charAt(at);
      switch (next) {
        case '"', '\\' -> text.append('\\').append(next);
        case '\n' -> text.append("\\n");
        case '\r' -> text.append("\\r");
        case '\t' -> text.append("\\t");
        default -> {
          if (next < ' ') {
            text.append(String.format("\\u%04x", (int) next));
          } else {
            text.append(next);
          }
        }
      }
    }
    text.append('"');
  }
}
