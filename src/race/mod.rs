//! Local against remote: pure transitions and policy, and the driver that performs them.
