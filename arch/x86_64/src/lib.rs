//! Boot protocols, ACPI tables, CPUID and register values for x86_64.
