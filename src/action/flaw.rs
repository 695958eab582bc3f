//! The rule that a test breaks, to see that the laws notice it: a broken twin.

/// At most one rule of `F`, and none in any build but that of the tests, where this has no size and all
/// that asks it is known to the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flawed<F> {
    #[cfg(test)]
    rule: Option<F>,
    #[cfg(not(test))]
    rule: std::marker::PhantomData<F>,
}

impl<F> Default for Flawed<F> {
    fn default() -> Self {
        Self { rule: Default::default() }
    }
}

impl<F: Copy + PartialEq> Flawed<F> {
    /// Whether it is this rule that is broken.
    #[cfg(test)]
    pub(super) fn by(&self, rule: F) -> bool {
        self.rule == Some(rule)
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "the test build reads it")]
    pub(super) const fn by(&self, _: F) -> bool {
        false
    }
}

#[cfg(test)]
impl<F> From<Option<F>> for Flawed<F> {
    fn from(rule: Option<F>) -> Self {
        Self { rule }
    }
}
