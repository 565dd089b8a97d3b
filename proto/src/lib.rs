//! Wire messages of Fulgurite's doors.
