//! An error with its causes, as people read it.

use std::error::Error;
use std::iter;

/// An error with its causes in one line. A cause that the text before it already contains is not repeated: many
/// libraries write the cause into their own message, and give it as the source too.
pub fn in_one_line(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |error| (*error).source()).map(ToString::to_string);
    causes.fold(String::new(), |said, cause| match said.as_str() {
        "" => cause,
        before if before.contains(&cause) => said,
        before => format!("{before}: {cause}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Link {
        said: &'static str,
        source: Option<Box<Link>>,
    }

    #[test]
    fn a_cause_that_was_said_is_not_repeated() {
        let cases: &[(&[&str], &str)] = &[
            (&["read the table"], "read the table"),
            (&["read the table", "connection refused"], "read the table: connection refused"),
            (&["read: refused", "refused", "os error 111"], "read: refused: os error 111"),
            (&["refused", "refused", "refused"], "refused"),
        ];
        for (chain, expected) in cases {
            let link = |source, said: &&'static str| Some(Box::new(Link { said, source }));
            let error = chain.iter().rev().fold(None, link).expect("an error");
            assert_eq!(in_one_line(&error), *expected);
        }
    }
}
