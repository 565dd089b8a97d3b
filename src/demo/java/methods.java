
  static long @method@Sum(int... values) {
    long sum = @number@;
    for (int value : values) {
      sum = sum * 31 + (value ^ (value >>> @small@));
    }
    return sum;
  }
//
  static String @method@Line(java.util.List<? extends Object> all) {
    var joiner = new java.util.StringJoiner(", ", "@method@[", "]");
    all.stream().filter(java.util.Objects::nonNull).map(Object::toString).forEach(joiner::add);
    return joiner.toString();
  }
//
  static <E extends Enum<E>> java.util.Optional<E> @method@Of(Class<E> type, String text) {
    for (E constant : type.getEnumConstants()) {
      if (constant.name().equalsIgnoreCase(text.trim())) {
        return java.util.Optional.of(constant);
      }
    }
    return java.util.Optional.empty();
  }
//
  static int[] @method@Sorted(int[] values) {
    int[] sorted = values.clone();
    for (int end = 1; end < sorted.length; end++) {
      int value = sorted[end];
      int at = end - 1;
      while (at >= 0 && sorted[at] > value) {
        sorted[at + 1] = sorted[at];
        at--;
      }
      sorted[at + 1] = value;
    }
    return sorted;
  }
//
  static String @method@Kind(Object value) {
    if (value instanceof Number number && number.intValue() > @number@) {
      return "large";
    }
    return switch (String.valueOf(value).length() % 4) {
      case 0 -> "empty or even";
      case 1, 3 -> "odd";
      default -> {
        String text = """
            a @method@ of
            @number@ parts
            """;
        yield text.strip();
      }
    };
  }
//
  static double @method@Mean(java.util.stream.IntStream values, java.util.function.IntUnaryOperator weigh) {
    return values.map(weigh).filter(value -> value != @small@).average().orElse(Double.NaN);
  }
