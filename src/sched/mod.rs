//! Admission: which action runs next, and whether it may run at all.
