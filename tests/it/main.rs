//! The integration tests: the built service against real servers, one behaviour a file.

// Always so here; written out, it lets the lints' allowances for tests reach functions that are no tests.
#[cfg(test)]
mod support;

#[cfg(test)]
mod imports;
#[cfg(test)]
mod threads;
