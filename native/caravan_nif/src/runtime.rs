//! The one tokio runtime: a single thread, started by the first lookup.

use std::future::pending;
use std::io;
use std::thread;

use once_cell::sync::OnceCell;
use tokio::runtime::{Builder, Handle};

static RUNTIME: OnceCell<Handle> = OnceCell::new();

/// The running runtime. A start that failed is tried again by the next call.
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
