//! Examples of any2pix as a library.
