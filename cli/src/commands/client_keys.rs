//! `qcc-ctl client-keys`: a file on this machine; no server is asked.

use std::{
    fmt::Display,
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
};

use qcc_proto::client_keys::{self, Digest, FILE_BYTES_MAX, KEYS_MAX};

use super::{Answer, Context};
use crate::{
    args::client_keys::{Add, ClientKeys},
    error::{Error, Exit},
};

pub(super) fn run(command: &ClientKeys, context: &Context) -> Result<Answer, Error> {
    match command {
        ClientKeys::Add(args) => add(args, context),
    }
}

fn add(args: &Add, context: &Context) -> Result<Answer, Error> {
    let (path, name) = (args.file.display(), &args.name);
    let failed =
        |what: &str, why: &dyn Display| Error::failed(format!("cannot {what} `{path}`: {why}"));
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&args.file)
        .map_err(|error| failed("open", &error))?;
    // For as long as this process lives. Two at a time could give one name to two keys.
    file.lock().map_err(|error| failed("lock", &error))?;
    let mut text = String::new();
    let read = (&file).take(FILE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| failed("read", &error))?;
    let known = client_keys::parse(&text).map_err(|error| failed("use", &error))?;
    if known.values().any(|known| known == name) {
        let error = Error::new(Exit::Conflict, format!("`{path}` has a key of `{name}`"));
        return Err(error.hint("choose another name, or delete that line first"));
    }
    let key = fresh_key()?;
    let line = client_keys::line(name, &client_keys::digest(key.as_bytes()));
    // The last line of a file that was written by hand may lack its end.
    let start = match text.is_empty() || text.ends_with('\n') {
        true => "",
        false => "\n",
    };
    let line = format!("{start}{line}");
    if known.len() >= KEYS_MAX || (text.len() + line.len()) as u64 > FILE_BYTES_MAX {
        let why = format!("{KEYS_MAX} keys and {FILE_BYTES_MAX} bytes are the most");
        return Err(failed("add to", &why));
    }
    let written = file.write_all(line.as_bytes());
    let written = written.and_then(|()| file.sync_all());
    if written.is_err() {
        let _ = file.set_len(text.len() as u64); // Half a line would spoil the whole file.
    }
    written.map_err(|error| failed("write", &error))?;
    context.output.text(&format!("{key}\n"))?;
    Ok(Answer::Done)
}

fn fresh_key() -> Result<String, Error> {
    let mut random = Digest::default();
    getrandom::fill(&mut random)
        .map_err(|error| Error::failed(format!("no random bytes: {error}")))?;
    Ok(client_keys::key(&random))
}
