//! The tokio runtime of all lookups: one thread, which the first lookup starts.

use std::future::pending;
use std::io;
use std::thread;

use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle};

static RUNTIME: OnceCell<Handle> = OnceCell::new();

/// Returns the running runtime. If it cannot be started, the next call tries again.
pub fn handle() -> io::Result<&'static Handle> {
    RUNTIME.get_or_try_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name("caravan_dns".into())
            .spawn(move || runtime.block_on(pending::<()>()))?;
        Ok(handle)
    })
}
