//! Configuration: typed, layered, validated.
