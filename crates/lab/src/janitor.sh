# Clears up after a lab whose owner was killed; started beside the lab, one for each folder.
#
# Waits for a line or for the end of the pipe on its standard input. The line means that the owner has tidied up itself.
# The end of the pipe without a line means that the owner is gone, however it went: then everything that still works in
# the folder (the lab starts every server with its working directory inside and without a terminal, so a person looking
# around is left alone) is killed, and the folder is removed.
trap '' HUP INT TERM
read -r farewell
[ "$farewell" = done ] && exit 0
folder=$1
case "$folder" in */sparc-lab-*) ;; *) exit 1 ;; esac
for attempt in 1 2 3 4 5 6 7 8; do
  found=
  for link in /proc/[0-9]*/cwd; do
    case "$(readlink "$link" 2>/dev/null)" in
    "$folder" | "$folder"/*)
      process=${link%/cwd}
      # The fifth field after the name in parentheses is the terminal.
      [ "$(sed 's/.*) //' "$process/stat" 2>/dev/null | cut -d' ' -f5)" = 0 ] || continue
      kill -KILL "${process#/proc/}" 2>/dev/null
      found=yes
      ;;
    esac
  done
  [ -z "$found" ] && break
  sleep 0.1
done
# A killed postmaster leaves its System V segment in the kernel; line 7 of its pid file names it.
find "$folder" -maxdepth 3 -name postmaster.pid 2>/dev/null | while read -r file; do
  id=$(sed -n '7s/.* //p' "$file")
  [ -n "$id" ] && ipcrm -m "$id" 2>/dev/null
done
rm -rf -- "$folder"
