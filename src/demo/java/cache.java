package @package@;

import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.atomic.LongAdder;
import java.util.concurrent.locks.Lock;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Function;
import java.util.function.ToLongFunction;

/** Remembers what a @noun@ cost to make, up to a weight, the least used going first. */
public class @Class@<K, V> {
  /** How well it does. */
  public record Score(long hits, long misses, long evicted) {
    double ratio() {
      long all = hits + misses;
      return all == 0 ? 0 : (double) hits / all;
    }
  }

  private static final long @FIELD@_MAX = @number@L * 1024;

  private final LinkedHashMap<K, V> kept = new LinkedHashMap<>(@small@ + 16, 0.75f, true);
  private final ToLongFunction<? super V> weigh;
  private final Function<? super K, ? extends V> make;
  private final Lock lock = new ReentrantLock();
  private final LongAdder hits = new LongAdder();
  private final LongAdder misses = new LongAdder();
  private long @field@;
  private long evicted;

  public @Class@(Function<? super K, ? extends V> make, ToLongFunction<? super V> weigh) {
    this.make = Objects.requireNonNull(make);
    this.weigh = Objects.requireNonNull(weigh);
  }

  public V get(K key) {
    lock.lock();
    try {
      V found = kept.get(key);
      if (found != null) {
        hits.increment();
        return found;
      }
    } finally {
      lock.unlock();
    }
    misses.increment();
    V made = make.apply(key);
    put(key, made);
    return made;
  }

  private void put(K key, V value) {
    lock.lock();
    try {
      V before = kept.put(key, value);
      @field@ += weigh.applyAsLong(value) - (before == null ? 0 : weigh.applyAsLong(before));
      var oldest = kept.entrySet().iterator();
      while (@field@ > @FIELD@_MAX && kept.size() > 1 && oldest.hasNext()) {
        Map.Entry<K, V> gone = oldest.next();
        @field@ -= weigh.applyAsLong(gone.getValue());
        oldest.remove();
        evicted++;
      }
    } finally {
      lock.unlock();
    }
  }

  public Score score() {
    return new Score(hits.sum(), misses.sum(), evicted);
  }

  static String @other@(Object @noun@) {
    return @noun@ instanceof CharSequence text && text.length() > @small@ ? text.toString() : "@Noun@";
  }
@methods@}
