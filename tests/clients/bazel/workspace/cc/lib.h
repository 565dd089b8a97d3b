#pragma once

#include <string>

// "hello, NAME!"
std::string greet(const std::string &name);
