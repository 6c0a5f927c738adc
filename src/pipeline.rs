//! Which pipeline this process runs. It is known before the command line is parsed, because the names of the domains are
//! values and completions of it.

use std::sync::OnceLock;

use freshet_topics::Pipeline;

static CHOSEN: OnceLock<&'static Pipeline> = OnceLock::new();

/// The pipeline of this process: the shipped one, unless another was chosen before the first look.
pub fn chosen() -> &'static Pipeline {
    CHOSEN.get_or_init(Pipeline::shipped)
}
