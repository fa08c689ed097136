fn main() -> std::process::ExitCode {
    manyfs::cli::main()
}
