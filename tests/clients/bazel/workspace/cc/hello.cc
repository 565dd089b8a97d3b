#include <iostream>

#include "cc/lib.h"

int main() { std::cout << greet("world") << "\n"; }
