# What `octavo bench` measures of a file of cases and of the machine, and what it refuses.
#   cmake -D octavo=PROGRAM -D work=FOLDER -P bench_test.cmake

set(cases ${work}/bench_test_cases.txt)
file(WRITE ${cases} "
# A comment.
few  f32 | paged q=f32 hq=2 hkv=1 d=32 mask=causal q_len=9 kv_len=9  # and another
few bf16 | paged q=bf16 hq=2 hkv=1 d=32 mask=causal q_len=1 kv_len=17
")

function(run_bench expected)
  execute_process(COMMAND ${octavo} bench ${ARGN}
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
  if(NOT result EQUAL expected)
    message(SEND_ERROR "octavo bench ${ARGN}: exit ${result}, not ${expected}\n${output}${errors}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

function(require_positive json)
  string(JSON value GET "${json}" ${ARGN})
  if(NOT value GREATER 0)
    message(SEND_ERROR "${ARGN} is ${value} in ${json}")
  endif()
endfunction()

function(require_limits json)
  require_positive("${json}" threads)
  require_positive("${json}" read_bytes)
  foreach(rate fma_gflops vdpbf16ps_gflops tdpbf16ps_gflops read_gbs)
    string(JSON type TYPE "${json}" ${rate})
    if(type STREQUAL "NULL" AND rate MATCHES bf16ps)
      continue()  # the processor lacks it
    endif()
    require_positive("${json}" ${rate} one_thread)
    require_positive("${json}" ${rate} all_threads)
  endforeach()
endfunction()

run_bench(0 --limits --json)
require_limits("${output}")

run_bench(0 --cases ${cases} --json)
string(JSON limits GET "${output}" limits)
require_limits("${limits}")
foreach(i 0 1)
  foreach(field median_us gflops kv_gbs floor_us share)
    require_positive("${output}" cases ${i} ${field})
  endforeach()
endforeach()

run_bench(0 --cases ${cases} --match bf16 --kernel cpu_reference)
if(output MATCHES "few  f32" OR NOT output MATCHES "few bf16 +cpu_reference")
  message(SEND_ERROR "not the table of one case:\n${output}")
endif()

file(WRITE ${cases}.bad "no bar\n")
run_bench(2 --cases ${cases}.bad)
file(WRITE ${cases}.bad "bad dtype | paged q=f31 hq=1 d=8 q_len=1 kv_len=1\n")
run_bench(2 --cases ${cases}.bad)
file(WRITE ${cases}.bad "a | paged q=f32 hq=1 d=8 q_len=1 kv_len=1
a | ragged q=f32 hq=1 d=8 q_len=1 kv_len=1
")
run_bench(2 --cases ${cases}.bad)
run_bench(2 --cases ${cases}.missing)
run_bench(2 --cases ${cases} --match nothing)
run_bench(2 --cases ${cases} paged q=f32 hq=1 d=8 q_len=1 kv_len=1)
run_bench(2 --match few)
run_bench(2 --limits --cases ${cases})
run_bench(2 --limits --kernel cpu_reference)
run_bench(2 --limits --device cuda:0)
run_bench(2)
