// Writes each listed problem to a file of the folder given.
#include <cstddef>
#include <fstream>
#include <string>

#include "problems.h"

int main(int count, char** words) {
  if (count != 2) return 2;
  std::size_t next = 0;
  for (const std::string& text : octavo::tests::all_problems()) {
    std::ofstream file(std::string(words[1]) + "/" + std::to_string(next++));
    if (!(file << text)) return 1;
  }
  return 0;
}
