//! A linker argument that the library cannot do without, kept out of RUSTFLAGS because a user's own
//! RUSTFLAGS would replace it.

fn main() {
    // The VM unmaps a NIF library when its module is purged. The resolver's thread runs code of this
    // library, so it has to stay mapped. (macOS never unmaps a library that has thread-locals.)
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
