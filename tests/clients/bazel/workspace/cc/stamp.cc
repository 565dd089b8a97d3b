// Prints a header that defines a greeting.
#include <cstdio>

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  std::printf("#pragma once\n#define GREETING \"%s\"\n", argv[1]);
  return 0;
}
