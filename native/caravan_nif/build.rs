//! Sets a linker argument that the library needs. It is not set in a cargo configuration, because the environment
//! variable RUSTFLAGS would replace it there.

fn main() {
    // The VM unmaps a NIF library when its module is purged. The library must stay mapped, because the runtime's
    // thread runs its code. (macOS does not unmap a library that has thread-locals.)
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
