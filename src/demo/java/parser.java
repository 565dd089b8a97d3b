package @package@;

import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.function.IntPredicate;

/** Reads lines of the form {@code @field@ = @other@ * (@number@ + 1)}, as the @noun@ of a plan has them. */
public final class @Class@ {
  /** What a line is made of. */
  public sealed interface @Noun@ permits Name, Literal, Operation {
    long value(Scope scope);
  }

  /** Where names have values. */
  @FunctionalInterface
  public interface Scope {
    long look(String name);
  }

  record Name(String text) implements @Noun@ {
    @Override
    public long value(Scope scope) {
      return scope.look(text);
    }
  }

  record Literal(long number) implements @Noun@ {
    @Override
    public long value(Scope scope) {
      return number;
    }
  }

  record Operation(char sign, @Noun@ left, @Noun@ right) implements @Noun@ {
    @Override
    public long value(Scope scope) {
      long a = left.value(scope);
      long b = right.value(scope);
      return switch (sign) {
        case '+' -> a + b;
        case '-' -> a - b;
        case '*' -> a * b;
        case '/' -> b == 0 ? @number@ : a / b;
        default -> throw new IllegalStateException("no operation " + sign);
      };
    }
  }

  private final String line;
  private int at;

  public @Class@(String line) {
    this.line = line;
  }

  public static List<@Noun@> parseAll(Iterable<String> lines) {
    List<@Noun@> parsed = new ArrayList<>();
    for (Iterator<String> each = lines.iterator(); each.hasNext(); ) {
      String line = each.next().strip();
      if (!line.isEmpty() && line.charAt(0) != '#') {
        parsed.add(new @Class@(line).parse());
      }
    }
    return parsed;
  }

  public @Noun@ parse() {
    @Noun@ parsed = sum();
    if (at < line.length()) {
      throw new IllegalArgumentException("'" + line.substring(at) + "' is left over in " + line);
    }
    return parsed;
  }

  private @Noun@ sum() {
    @Noun@ left = product();
    while (sees('+') || sees('-')) {
      char sign = line.charAt(at++);
      left = new Operation(sign, left, product());
    }
    return left;
  }

  private @Noun@ product() {
    @Noun@ left = atom();
    while (sees('*') || sees('/')) {
      char sign = line.charAt(at++);
      left = new Operation(sign, left, atom());
    }
    return left;
  }

  private @Noun@ atom() {
    if (sees('(')) {
      at++;
      @Noun@ inner = sum();
      if (!sees(')')) {
        throw new IllegalArgumentException("no ) at " + at + " of " + line);
      }
      at++;
      return inner;
    }
    String digits = run(Character::isDigit);
    return digits.isEmpty() ? new Name(run(Character::isLetter)) : new Literal(Long.parseLong(digits));
  }

  private String run(IntPredicate wanted) {
    skip();
    int start = at;
    while (at < line.length() && wanted.test(line.charAt(at))) {
      at++;
    }
    return line.substring(start, at);
  }

  private boolean sees(char wanted) {
    skip();
    return at < line.length() && line.charAt(at) == wanted;
  }

  private void skip() {
    while (at < line.length() && Character.isWhitespace(line.charAt(at))) {
      at++;
    }
  }
@methods@}
