// Empty: Cargo wants a target in a package, even in one that only names a source.
