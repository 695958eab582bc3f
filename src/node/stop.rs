//! A flag that ends things: set once, by a signal or by the owner, and waited on without polling.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// A shared stop flag; clones are the same flag.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    shared: Arc<(Mutex<bool>, Condvar)>,
}

impl Stop {
    /// A flag that is not set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag and wakes everyone who waits on it.
    pub fn set(&self) {
        let (flag, wake) = &*self.shared;
        *flag.lock().unwrap_or_else(PoisonError::into_inner) = true;
        wake.notify_all();
    }

    /// Whether the flag is set.
    pub fn is_set(&self) -> bool {
        *self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the flag is set or `timeout` has passed; returns whether it is set.
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        let (flag, wake) = &*self.shared;
        let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
        let (guard, _) = wake
            .wait_timeout_while(guard, timeout, |set| !*set)
            .unwrap_or_else(PoisonError::into_inner);
        *guard
    }

    /// Waits until the flag is set.
    pub fn wait(&self) {
        let (flag, wake) = &*self.shared;
        let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
        drop(wake.wait_while(guard, |set| !*set).unwrap_or_else(PoisonError::into_inner));
    }
}
