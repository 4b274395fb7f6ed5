fn main() {
    let dir = std::env::args().nth(1).unwrap();
    any2pix_train::playroom::prepare(std::path::Path::new(&dir), &mut |s| eprintln!("{s}")).unwrap();
}
