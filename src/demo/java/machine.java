package @package@;

import java.time.Duration;
import java.time.Instant;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.EnumMap;
import java.util.EnumSet;
import java.util.Map;
import java.util.Set;
import java.util.function.BiConsumer;

/** The life of a @noun@, from its order to its @field@. */
public class @Class@ {
  /** Where a @noun@ is. */
  public enum State {
    ORDERED,
    PACKED,
    SENT,
    DELIVERED,
    RETURNED,
    LOST;

    boolean isEnd() {
      return this == DELIVERED || this == LOST;
    }
  }

  private static final Map<State, Set<State>> AFTER = new EnumMap<>(State.class);

  static {
    AFTER.put(State.ORDERED, EnumSet.of(State.PACKED, State.LOST));
    AFTER.put(State.PACKED, EnumSet.of(State.SENT, State.LOST));
    AFTER.put(State.SENT, EnumSet.of(State.DELIVERED, State.RETURNED, State.LOST));
    AFTER.put(State.RETURNED, EnumSet.of(State.PACKED));
  }

  private record Step(State state, Instant since) {}

  private final Deque<Step> history = new ArrayDeque<>();
  private final String @field@;
  private BiConsumer<State, State> listener = (before, after) -> {};
  private int @other@ = @small@;

  public @Class@(String @field@, Instant now) {
    this.@field@ = @field@;
    history.push(new Step(State.ORDERED, now));
  }

  public State state() {
    return history.element().state();
  }

  public void listen(BiConsumer<State, State> added) {
    BiConsumer<State, State> before = listener;
    listener =
        (from, to) -> {
          before.accept(from, to);
          added.accept(from, to);
        };
  }

  public void move(State to, Instant now) {
    State from = state();
    if (!AFTER.getOrDefault(from, EnumSet.noneOf(State.class)).contains(to)) {
      throw new IllegalStateException(@field@ + " can't go from " + from + " to " + to);
    }
    history.push(new Step(to, now));
    @other@++;
    listener.accept(from, to);
  }

  public Duration age(Instant now) {
    return Duration.between(history.element().since(), now);
  }

  public boolean isLate(Instant now) {
    return !state().isEnd() && age(now).compareTo(Duration.ofHours(@number@)) > 0;
  }

  public int @other@() {
    return @other@;
  }

  @Override
  public String toString() {
    StringBuilder text = new StringBuilder("@noun@ ").append(@field@);
    history.descendingIterator().forEachRemaining(step -> text.append(" > ").append(step.state()));
    return text.toString();
  }
@methods@}
