//! Empty: the package is there for its dependency, whose C sources `make demo` compiles.
