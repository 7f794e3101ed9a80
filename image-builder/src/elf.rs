//! The few facts of an ELF file that the builder needs.

use object::elf;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};

type Header = elf::FileHeader64<object::Endianness>;

/// What a 64-bit x86 ELF file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Facts {
    /// Path of the program loader; `None` in static programs and in libraries.
    pub(crate) interpreter: Option<String>,
    /// Names of the shared libraries it needs.
    pub(crate) needed: Vec<String>,
    /// It has Xen's PHYS32_ENTRY note: the entry point of a PVH boot.
    pub(crate) has_pvh_entry: bool,
}

/// `true` if the bytes begin as an ELF file does.
pub(crate) fn is_elf(data: &[u8]) -> bool {
    data.starts_with(&elf::ELFMAG)
}

/// Reads an ELF file; fails for other files, other processors and broken ones.
pub(crate) fn facts(data: &[u8]) -> Result<Facts, String> {
    let header = parse(data)?;
    let endian = header.endian().map_err(text)?;
    let segments = header.program_headers(endian, data).map_err(text)?;
    let mut facts = Facts::default();
    for segment in segments {
        if let Some(path) = segment.interpreter(endian, data).map_err(text)? {
            facts.interpreter = Some(String::from_utf8_lossy(path).into_owned());
        }
        if let Some(mut notes) = segment.notes(endian, data).map_err(text)? {
            while let Some(note) = notes.next().map_err(text)? {
                // XEN_ELFNOTE_PHYS32_ENTRY, include/xen/interface/elfnote.h
                facts.has_pvh_entry |= note.name() == b"Xen" && note.n_type(endian) == 18;
            }
        }
    }
    // Names of needed libraries stand in the string table that the dynamic section is linked to.
    let sections = header.sections(endian, data).map_err(text)?;
    if let Some((entries, strings)) = sections.dynamic(endian, data).map_err(text)? {
        let strings = sections.strings(endian, data, strings).map_err(text)?;
        for entry in entries {
            if entry.tag(endian) == elf::DT_NEEDED {
                let name = entry.string(endian, strings).map_err(text)?;
                facts
                    .needed
                    .push(String::from_utf8_lossy(name).into_owned());
            }
        }
    }
    Ok(facts)
}

/// The bytes of a section; `None` if there is no such section.
pub(crate) fn section<'data>(data: &'data [u8], name: &str) -> Result<Option<&'data [u8]>, String> {
    let header = parse(data)?;
    let endian = header.endian().map_err(text)?;
    let sections = header.sections(endian, data).map_err(text)?;
    match sections.section_by_name(endian, name.as_bytes()) {
        Some((_, section)) => section.data(endian, data).map(Some).map_err(text),
        None => Ok(None),
    }
}

fn parse(data: &[u8]) -> Result<&Header, String> {
    let header = Header::parse(data).map_err(|_| "it is no 64-bit ELF file".to_owned())?;
    let endian = header.endian().map_err(text)?;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err("it was built for another processor than x86_64".into());
    }
    Ok(header)
}

fn text(error: object::read::Error) -> String {
    error.to_string()
}
