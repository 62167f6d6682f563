//! Whether Redis takes writes: the replies by which it refuses all of them while it goes on answering reads.

use redis::{Pipeline, RedisError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Memory,
    Persistence,
    Replicas,
}

impl Refusal {
    pub(super) fn of(error: &RedisError) -> Option<Refusal> {
        // Of a pipeline the error's own code says nothing.
        let errors = error.clone().into_server_errors()?;
        errors.iter().find_map(|(_, error)| match error.code() {
            "OOM" => Some(Refusal::Memory),
            "MISCONF" => Some(Refusal::Persistence),
            "NOREPLICAS" => Some(Refusal::Replicas),
            _ => None,
        })
    }

    /// Of a metric.
    pub(super) fn label(self) -> &'static str {
        match self {
            Refusal::Memory => "out_of_memory",
            Refusal::Persistence => "not_saved",
            Refusal::Replicas => "too_few_replicas",
        }
    }

    pub(super) fn fix(self) -> &'static str {
        match self {
            Refusal::Memory => {
                "its memory is full: raise maxmemory, or move what else is kept there"
            }
            Refusal::Persistence => "it can't save its data: see its log, and free its disk",
            Refusal::Replicas => "start its replicas, or lower min-replicas-to-write",
        }
    }
}

/// Adds a write of what was there before, to a key that nobody reads: refused when every write is.
pub(super) fn try_one(pipeline: &mut Pipeline, key: &str) {
    pipeline.hset(key, "taken", 1).ignore();
}
