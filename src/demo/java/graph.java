package @package@;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.PriorityQueue;
import java.util.Queue;
import java.util.Set;
import java.util.TreeMap;

/** Which @noun@ needs which, and what the way from one to another costs. */
public final class @Class@<T extends Comparable<T>> {
  private record Edge<T>(T to, int @other@) {}

  private record Reached<T>(T at, long @field@) implements Comparable<Reached<T>> {
    @Override
    public int compareTo(Reached<T> other) {
      return Long.compare(@field@, other.@field@);
    }
  }

  private final Map<T, List<Edge<T>>> edges = new TreeMap<>();

  public @Class@<T> connect(T from, T to, int @other@) {
    if (@other@ < 0) {
      throw new IllegalArgumentException("@other@ is " + @other@);
    }
    edges.computeIfAbsent(from, key -> new ArrayList<>()).add(new Edge<>(to, @other@));
    edges.computeIfAbsent(to, key -> new ArrayList<>());
    return this;
  }

  public Map<T, Long> from(T start) {
    Map<T, Long> best = new HashMap<>();
    PriorityQueue<Reached<T>> open = new PriorityQueue<>();
    open.add(new Reached<>(start, @small@));
    while (!open.isEmpty()) {
      Reached<T> next = open.remove();
      if (best.putIfAbsent(next.at(), next.@field@()) != null) {
        continue;
      }
      for (Edge<T> edge : edges.getOrDefault(next.at(), List.of())) {
        open.add(new Reached<>(edge.to(), next.@field@() + edge.@other@()));
      }
    }
    return Collections.unmodifiableMap(best);
  }

  public List<T> sorted() {
    Map<T, Integer> waits = new TreeMap<>();
    edges.keySet().forEach(@noun@ -> waits.put(@noun@, 0));
    edges.values().forEach(list -> list.forEach(edge -> waits.merge(edge.to(), 1, Integer::sum)));
    Queue<T> ready = new ArrayDeque<>();
    waits.forEach((@noun@, count) -> { if (count == 0) ready.add(@noun@); });
    Set<T> order = new LinkedHashSet<>();
    for (T @noun@ = ready.poll(); @noun@ != null; @noun@ = ready.poll()) {
      order.add(@noun@);
      for (Edge<T> edge : edges.get(@noun@)) {
        if (waits.merge(edge.to(), -1, Integer::sum) == 0) {
          ready.add(edge.to());
        }
      }
    }
    if (order.size() < edges.size()) {
      throw new IllegalStateException("a circle among " + (edges.size() - order.size()) + " of @number@");
    }
    return List.copyOf(order);
  }
@methods@}
