//! Simulated peers, the harness that runs real processes, and the lab for simulated worlds.
