//! Places where a test lets the coordinator die.

/// At which place the process dies. Without one, which is the rule, nothing happens.
#[derive(Debug, Clone, Default)]
pub struct Failpoint(Option<String>);

impl Failpoint {
    /// Dies at the place of this name: `<step>-<place>`, where the steps are `lock`, `begin`, `wave`, `end` and `unlock`, and the
    /// places `written` (objects only), `pushed` (the upstream has it) and `moved` (the branch here has it).
    pub fn new(name: Option<String>) -> Self {
        Self(name)
    }

    pub(super) fn hit(&self, step: &str, place: &str) {
        let is_it = |name: &String| {
            let place = name
                .strip_prefix(step)
                .and_then(|rest| rest.strip_prefix('-').map(|it| it == place));
            place == Some(true)
        };
        if self.0.as_ref().is_some_and(is_it) {
            std::process::abort();
        }
    }
}
