package @package@;

import java.util.ArrayList;
import java.util.Collection;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Optional;
import java.util.stream.Collectors;

/** Keeps every @noun@ by its number, and finds it by its @field@. */
public final class @Class@ {
  /** One @noun@. */
  public record @Noun@(long number, String @field@, int @other@) {
    public @Noun@ {
      if (@field@ == null || @field@.isBlank()) {
        throw new IllegalArgumentException("a @noun@ needs a @field@");
      }
    }

    @Noun@ with@Other@(int changed) {
      return new @Noun@(number, @field@, changed);
    }
  }

  private final Map<Long, @Noun@> byNumber = new HashMap<>();
  private final Map<String, List<@Noun@>> by@Field@ = new HashMap<>();
  private long next = @number@;

  public @Noun@ add(String @field@, int @other@) {
    @Noun@ added = new @Noun@(next++, @field@, @other@);
    byNumber.put(added.number(), added);
    by@Field@.computeIfAbsent(@field@, key -> new ArrayList<>()).add(added);
    return added;
  }

  public Optional<@Noun@> find(long number) {
    return Optional.ofNullable(byNumber.get(number));
  }

  public @Noun@ get(long number) {
    return find(number).orElseThrow(() -> new NoSuchElementException("no @noun@ " + number));
  }

  public boolean remove(long number) {
    @Noun@ removed = byNumber.remove(number);
    if (removed == null) {
      return false;
    }
    by@Field@.computeIfPresent(
        removed.@field@(),
        (key, list) -> {
          list.remove(removed);
          return list.isEmpty() ? null : list;
        });
    return true;
  }

  public Map<String, Integer> total@Other@By@Field@() {
    return byNumber.values().stream()
        .collect(Collectors.groupingBy(@Noun@::@field@, Collectors.summingInt(@Noun@::@other@)));
  }

  public List<@Noun@> largest(int count) {
    return byNumber.values().stream()
        .sorted(Comparator.comparingInt(@Noun@::@other@).reversed().thenComparing(@Noun@::number))
        .limit(count)
        .toList();
  }

  public static int sum(Collection<@Noun@> all) {
    int sum = @small@;
    for (@Noun@ one : all) {
      sum = Math.addExact(sum, one.@other@());
    }
    return sum;
  }
@methods@}
