//! Sessions, and which shard does which: by session, because a turn needs the turn before it.

use crate::error::AgentError;

/// Most shards of a batch.
const MAX_SHARDS: usize = 99_999;

/// Rows that follow from each other, in order; most have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Session {
    /// The session's name, or its only row's id.
    pub(super) name: String,
    /// Indices of its rows.
    pub(super) rows: Vec<usize>,
}

/// A part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Which, from 0.
    pub index: usize,
    /// Of how many.
    pub count: usize,
}

impl Shard {
    /// Shard `index` of `count`.
    pub fn new(index: usize, count: usize) -> Result<Self, AgentError> {
        let refused = |name, value: usize, reason: String| {
            Err(AgentError::Setting { name, value: value.to_string(), reason })
        };
        if count == 0 || count > MAX_SHARDS {
            return refused("--shards", count, format!("must be 1 to {MAX_SHARDS}"));
        }
        if index >= count {
            let reason = format!("of {count} shards the last is {}", count - 1);
            return refused("--shard", index, reason);
        }
        Ok(Self { index, count })
    }

    /// Its sessions: of all, which are sorted by name, every `count`th.
    pub(super) fn sessions(self, all: &[Session]) -> impl Iterator<Item = &Session> {
        all.iter().skip(self.index).step_by(self.count)
    }

    /// What its files are called: `part-00003-of-00016`.
    pub fn stem(self) -> String {
        format!("part-{:05}-of-{:05}", self.index, self.count)
    }
}

/// Indices as Slurm's `--array` takes them: `2,7-9`.
pub(super) fn array(indices: &[usize]) -> String {
    let runs = indices.chunk_by(|a, b| a + 1 == *b);
    let expression = |run: &[usize]| match run {
        [only] => only.to_string(),
        _ => format!("{}-{}", run[0], run[run.len() - 1]),
    };
    runs.map(expression).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_session_is_in_exactly_one_shard() {
        let all: Vec<Session> =
            (0..10).map(|n| Session { name: n.to_string(), rows: vec![n] }).collect();
        for count in [1, 3, 16] {
            let mut seen: Vec<usize> = (0..count)
                .flat_map(|index| Shard::new(index, count).unwrap().sessions(&all))
                .flat_map(|session| session.rows.clone())
                .collect();
            seen.sort();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_shard_that_cannot_be_is_refused() {
        assert!(Shard::new(2, 3).is_ok());
        for (index, count) in [(3, 3), (0, 0), (0, 100_000)] {
            assert!(Shard::new(index, count).is_err());
        }
        assert_eq!(Shard::new(3, 16).unwrap().stem(), "part-00003-of-00016");
    }

    #[test]
    fn missing_shards_are_said_as_slurm_takes_them() {
        assert_eq!(array(&[2, 7, 8, 9]), "2,7-9");
        assert_eq!(array(&[0, 1]), "0-1");
        assert_eq!(array(&[]), "");
    }
}
