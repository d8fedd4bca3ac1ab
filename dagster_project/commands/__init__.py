"""The commands of `rid`, one file each."""
