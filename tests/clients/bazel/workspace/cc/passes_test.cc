// Passes if the library is right and the data file lies beside the test, as runfiles do.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>

#include "cc/lib.h"

int main() {
  std::string root = std::getenv("TEST_SRCDIR") ? std::getenv("TEST_SRCDIR") : ".";
  std::ifstream file(root + "/clients/cc/data.txt");
  std::string line;
  if (!std::getline(file, line) || line != "data of a test") {
    std::cerr << "read '" << line << "'\n";
    return 1;
  }
  // What a test leaves in this directory comes back as test.outputs.
  if (const char *outputs = std::getenv("TEST_UNDECLARED_OUTPUTS_DIR")) {
    std::ofstream(std::string(outputs) + "/left.txt") << "left by the test\n";
  }
  std::cout << "the passing test ran\n";
  return greet("test") == "hello, test!" ? 0 : 1;
}
