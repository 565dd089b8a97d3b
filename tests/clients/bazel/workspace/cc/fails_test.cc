#include <iostream>

#include "cc/lib.h"

int main() {
  std::cout << "stdout of the failing test: " << greet("failure") << "\n";
  std::cerr << "stderr of the failing test\n";
  return 3;
}
