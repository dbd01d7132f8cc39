//! Real processes, TCP, Raft and signals: one story per file.
