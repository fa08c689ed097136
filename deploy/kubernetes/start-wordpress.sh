#!/bin/sh
# Starts WordPress with its wp-content on a volume:   start-wordpress.sh DIRECTORY-OF-THE-MOUNT
#
# The image lays out its files when it is asked for Apache. Its wp-content goes to the volume, once in the volume's life, and a
# link takes its place. Several pods may start at once on an empty volume: the lock lets one of them copy, and what it
# copies gets its name when it is whole, so that no pod ever serves half a theme. A pod that dies with the lock loses it
# within 10 s, and the next one goes on. What is deleted later is not laid out again.
set -eu
volume=$1
started=$volume/.first-start
copy=$volume/.first-copy

docker-entrypoint.sh apache2 -v
if [ ! -L wp-content ]; then
  # Never into the bare directory below the mount.
  mountpoint -q "$volume"
  exec 9>>"$started"
  flock 9
  if [ ! -s "$started" ]; then
    for thing in wp-content/*; do
      name=${thing##*/}
      if [ ! -e "$volume/$name" ]; then
        rm -rf "$copy"
        cp -a "$thing" "$copy"
        mv -T "$copy" "$volume/$name"
      fi
    done
    rm -rf "$copy"
    echo "wp-content of the image was laid out here; without this file a pod's start does it again, as far as it is missing" >&9
  fi
  exec 9>&-
  rm -rf wp-content
  ln -s "$volume" wp-content
fi
exec apache2-foreground
