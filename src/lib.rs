//! Fulgurite: a Linux-native executor of build actions.
