# Writes a shell script that stands for nvcc of some version. It makes code that no GPU takes, and fails
# for the architecture sm_`broken`.
function(write_nvcc path version broken)
  file(WRITE ${path} "#!/bin/sh
[ \"$1\" = --version ] && echo ${version} && exit
seen= out=
for word; do
  [ \"$word\" = -arch=sm_${broken} ] && echo no such architecture && exit 1
  [ \"$seen\" = -o ] && out=$word
  seen=$word
done
printf '\\177ELF code' >\"$out\"
")
  file(CHMOD ${path} PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
endfunction()
