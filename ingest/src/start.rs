//! Decides where publishing of a claimed object begins. Pure.

use freshet_sinks::ledger::Claim;
use uuid::Uuid;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At row 0 of its present generation.
    Beginning,
    /// At the resume point.
    ResumePoint,
    /// At row 0 of the next generation.
    NextGeneration,
}

/// Decides it, from what is frozen, what this listener would do, and the stream of the topic.
///
/// | parser version, partition count | resume point | its stream | start |
/// |---|---|---|---|
/// | as frozen | row 0 | – | beginning |
/// | as frozen | later | the topic's | resume point |
/// | as frozen | later | another | beginning |
/// | other | – | – | next generation |
pub fn start(claim: &Claim, parser: i32, partitions: i32, stream: Uuid) -> Start {
    match (claim.parser_version, claim.partition_count) == (parser, partitions) {
        false => Start::NextGeneration,
        true if claim.object.resume_row > 0 && claim.object.stream_id == Some(stream) => Start::ResumePoint,
        true => Start::Beginning,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example_object;

    fn claimed() -> Claim {
        Claim { object: example_object(), parser_version: 1, partition_count: 4, earlier: None, received: 0 }
    }

    #[test]
    fn a_listener_that_reads_otherwise_opens_a_new_generation() {
        let (here, there) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let cases = [
            (0, None, 1, 4, Start::Beginning),
            (0, Some(there), 1, 4, Start::Beginning),
            (7, Some(here), 1, 4, Start::ResumePoint),
            (7, Some(there), 1, 4, Start::Beginning),
            (7, Some(here), 2, 4, Start::NextGeneration),
            (7, Some(here), 1, 6, Start::NextGeneration),
            (0, None, 1, 6, Start::NextGeneration),
        ];
        for (resume_row, stream_id, parser, partitions, expected) in cases {
            let mut claim = claimed();
            (claim.object.resume_row, claim.object.stream_id) = (resume_row, stream_id);
            assert_eq!(start(&claim, parser, partitions, here), expected, "{resume_row} {parser} {partitions}");
        }
    }
}
